"""covseg: COVID-19 lesion segmentation in chest CT, from NIfTI volumes to a table of scores.

The notebooks tell the story, these modules do the work, one idea each. Importing the package loads neither
Keras nor TensorFlow; `unet` does, and what is built on it.

A teaching and research project. Not a medical device.
"""

__version__ = "0.1.0"
