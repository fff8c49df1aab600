"""The commands of `semires`. Heavy imports happen inside them, so that --help is quick."""
