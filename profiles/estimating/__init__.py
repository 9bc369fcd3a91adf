"""Traces a step with fake tensors and times it by a roofline: no device, no memory."""
