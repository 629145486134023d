package applier

// settleKeysScript is to be replaced.
const settleKeysScript = `return {0, 0}`
