"""Cold starts from warm pools: a request that would wait takes over a pod that runs already.

`claims` decides (pure); `service` claims, and says what became of it; `vacancies` keeps a connection to each free pod;
`request` writes what makes a pod a Function's, with `signing` and `code` (archives).
"""
