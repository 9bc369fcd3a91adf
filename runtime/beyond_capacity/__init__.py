"""Steps that do not fit and follow no plan: swapped on line, op by op."""
