"""The verbs: one file each, glue between the modules that do the work."""
