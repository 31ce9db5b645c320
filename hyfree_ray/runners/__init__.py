"""Runners of stages: in no process (planning), in this process, or on Ray."""
