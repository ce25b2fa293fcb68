"""What bundles are taught with: recipes, labelled data, generated texts, features."""
