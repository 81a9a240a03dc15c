"""Images and prompts to masks: loading, precision, preprocessing, predictors."""
