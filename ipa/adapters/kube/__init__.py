"""The running pipeline as a SeldonDeployment on Kubernetes."""
