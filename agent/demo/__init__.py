"""`inferometer demo`: real flights, a real model and the real protocol, in separate processes.

    demo process ---- embedded broker (or --kafka BOOTSTRAP)
      |   |               ^ topics inference, labels       | consumer group
      |   +-- model server (flights, model, model_server)  v
      |                               agent (`inferometer run -c demo.yaml`)
      +---------- polls /v1/state ------------+
                  watch (what is reference, what broke) -> view (terminal), report (final)

Only the model server's process imports pandas and scikit-learn.
"""
