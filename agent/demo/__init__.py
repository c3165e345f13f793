"""`inferometer demo`: real flights, a real model and the real protocol, in separate processes.

    demo process ---- embedded broker (or --kafka BOOTSTRAP)
      |   |               ^ topics inference, labels       | consumer group
      |   +-- model server (flights, model, model_server)  v
      |         |  ^    January -> `profile build` -> agent (`inferometer run`, configuration)
      |         |  | rollback                        |  |
      |         |  +---- receiver (webhook) <---------+  | verdicts, signed CloudEvents
      +---------|-- polls /v1/state ---------------------+
                v
      story (counts, faults, alarms, actions), watch (what is shown of windows) -> view, report

The agent judges, nothing here does. Only the model server's process imports pandas and scikit-learn.
"""
