package applier

// The fence: WATCH a key, run a guard that touches this key when it is not as this process last wrote it, and then MULTI … EXEC. A touched key
// makes the EXEC do nothing. So a transaction pipelined behind a failed one cannot commit, and a process that was replaced cannot write.
//
// The guards go as EVAL with their text, not as EVALSHA: a script that the target has forgotten must not open the fence. They begin with a
// write that an OOM does not refuse (PERSIST): after it the script's later writes are not refused either, so that a full target closes the fence, too.

// streamGuard guards a transaction of the stream by the checkpoint. KEYS: checkpoint. ARGV: epoch, offset of the last transaction.
// Replies 1 when the checkpoint stands at both; else it touches the key and replies 0.
const streamGuard = `
redis.call('PERSIST', KEYS[1])
local c = redis.call('HMGET', KEYS[1], 'epoch', 'offset')
if c[1] == ARGV[1] and c[2] == ARGV[2] then return 1 end
local there = redis.call('EXISTS', KEYS[1])
redis.call('HINCRBY', KEYS[1], 'fenced', 1)
if there == 0 then redis.call('DEL', KEYS[1]) end
return 0`

// fenceGuard guards a transaction of the snapshot, and of anything else without an order, by the fence key. KEYS: fence. ARGV: its value, which is
// epoch:generation. Replies 1 when it is that; else it touches the key and replies 0.
const fenceGuard = `
redis.call('PERSIST', KEYS[1])
local f = redis.call('GET', KEYS[1])
if f == ARGV[1] then return 1 end
redis.call('SET', KEYS[1], f or '')
if not f then redis.call('DEL', KEYS[1]) end
return 0`

// admitScript lets a connection in: it replies the owner's epoch and the fence's value. Where asked, or where the fence is missing, it begins a
// new generation first: what a lost connection still carries is of an older one, and comes too late. Generations are the target's time in
// µs, so that they grow even when the key was lost. KEYS: owner, fence. ARGV: epoch, 1 for a new generation.
const admitScript = `
local e = redis.call('HGET', KEYS[1], 'epoch')
local f = redis.call('GET', KEYS[2])
if e == ARGV[1] and (ARGV[2] == '1' or not f) then
  local t = redis.call('TIME')
  f = e .. ':' .. string.format('%.0f', t[1] * 1000000 + t[2])
  redis.call('SET', KEYS[2], f)
end
return {e or '', f or ''}`
