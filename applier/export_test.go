package applier

// EndImport is what the end of a migration calls.
var EndImport = (*Applier).endImport
