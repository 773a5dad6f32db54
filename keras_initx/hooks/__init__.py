"""Functions that run before or after the layers of a running model.

How a call of a layer reaches a hook, from the outside in:

- `forward_hooks.forward_hooks` is the context that the callers of this room
  enter: `measurement` and `calibration`.
- `patched_call` replaces `keras.layers.Layer.__call__` there, so that each
  layer is called within `Recorder.attached`.
- `recorder.Recorder` keeps the stack of the running layers. It replaces the
  `call` of a layer, and its attribute `activation`, while the layer runs. What
  enters the activation, or else the output, goes to the hook.
- `patching.replaced` sets one attribute of one object, and restores it.
- `sequences` is for layers that run others once a time step, where no single
  call has the whole signal: `recurrent` and `time_distributed`.
- `functional` frees the signals of a functional model that runs op by op.
"""
