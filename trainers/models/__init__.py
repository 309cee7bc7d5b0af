"""What is trained: the three architectures, their pretrained weights, and features of a frozen backbone."""
