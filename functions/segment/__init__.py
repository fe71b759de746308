"""The container function that turns an uploaded image into a mask."""
