"""Where a training step is touched: anchors, storages by name, modes. It keeps no times."""
