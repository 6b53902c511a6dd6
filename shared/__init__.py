"""What all four services need and none owns. Small: it knows no service's business."""
