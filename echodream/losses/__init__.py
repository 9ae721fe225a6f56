"""Loss functions. The yaml files in conf/loss and conf/head set the weights and options of losses."""
