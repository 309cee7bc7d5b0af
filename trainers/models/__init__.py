"""The three architectures, their pretrained weights, and features of a frozen backbone."""
