"""The manifest's sections, one module each. Others import them from `semires_trainer.config`."""
