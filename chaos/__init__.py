"""The fault matrix: checks the service's promises on the real local stack while its parts fail."""
