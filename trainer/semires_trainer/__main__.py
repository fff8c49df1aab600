"""`python -m semires_trainer` is `semires`."""

from semires_trainer.cli import main

main(prog_name="semires")
