"""What opens above the panes: help, one process, stacks, dialogs."""
