"""What `subak smoke` does: the functional checks of docs/checklist.md against a running gateway, a few questions long.

`findings` is the form of what it says, `answer` reads an answer by the contract and without IO, `line` sends requests.
`streams`, `limits` and `operators` hold the checks, `course` what they tell each other, `run` their order. It asks over
the public URL, as readers do. What only an operator can see it looks up at the admin listener; without one, and
wherever else it can't look, it says so.
"""
