"""What lies on disk: all that a reader of a data set needs. No Beam, no OpenCV, no job."""
