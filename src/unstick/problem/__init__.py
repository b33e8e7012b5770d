"""What is minimized: model, loss and frozen data; value, gradient, noise and Hessian products."""
