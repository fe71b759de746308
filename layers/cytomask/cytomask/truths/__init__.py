"""Read ground truths for scoring and training: mask images, COCO files, and which image each belongs to."""
