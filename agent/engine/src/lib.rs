//! The runs: backup, restore, verify as state machines over the ports
