"""The ground floor: families, tasks, population training and the zoo store."""
