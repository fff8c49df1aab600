"""`python -m semires_trainer.preflight`: what can be known before GPUs are asked for, within seconds and on one CPU.

No torch. Nothing is claimed, nothing of the output is changed but for a probe that is removed again.
"""
