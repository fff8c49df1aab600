"""SemiRES: semi-supervised referring expression segmentation with SAM-refined pseudo-labels (ICML 2024)."""

__version__ = "0.1.0"
