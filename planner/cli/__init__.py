"""The planning commands, which import what is slow inside functions, so that help is quick."""
