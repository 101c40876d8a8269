"""Changes written to where a GitOps tool takes them from: files in a folder, or commits on a branch."""
