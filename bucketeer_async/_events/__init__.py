"""Events, from a push to a settled receipt."""
