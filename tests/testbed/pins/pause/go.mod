module semires.dev/testbed/pause

go 1.26
