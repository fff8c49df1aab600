"""The operator: watches SemiRESJobs, makes one Kubeflow PyTorchJob per attempt, and tells how far they are."""
