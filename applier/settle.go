package applier

// Settling writes expiries that are shifted as they were. What it does to a key it does in a script, so that nobody writes between its look and its write, and it may
// be done again: what is settled, or was given a new expiry meanwhile, is left as it is. What is over by then the server deletes.
//
// The scripts ask the server itself what it knows: they are the same for all.

// settleFunctions are what the scripts share. ARGV: grace in ms.
const settleFunctions = `
local keyShift, fieldShift, distant = 2^52, 2^45, 2^44
local grace = tonumber(ARGV[1])
local redisVersion, valkeyVersion = redis.REDIS_VERSION_NUM or 0, redis.VALKEY_VERSION_NUM or 0
local absolute = redisVersion >= 0x070000 -- there is PEXPIRETIME
local fieldsExpire = redisVersion >= 0x070400 or valkeyVersion >= 0x090000

local function now()
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end

-- A key's expiry; below 0 when it has none, or where it has to be computed, and is not a shifted one.
local function expiry(key)
  if absolute then return redis.call('PEXPIRETIME', key) end
  local left, t
  repeat
    t = now()
    left = redis.call('PTTL', key)
    if left < keyShift / 2 then return -1 end
  until now() == t -- else a ms has ended in between
  return t + left
end

-- What a shifted moment is written as; nil for another one.
local function settled(ms, shift)
  if ms >= shift and ms < shift + distant then return string.format('%.0f', ms - shift + grace) end
end

local function settleKey(key)
  local ms = settled(expiry(key), keyShift)
  if not ms then return 0 end
  redis.call('PEXPIREAT', key, ms)
  return 1
end

local function isHash(key) return fieldsExpire and redis.call('TYPE', key).ok == 'hash' end

-- Settles those fields of a hash that one HSCAN gives: some hundreds, or all where the hash is one piece of memory. Replies where the
-- next begins, and how many it settled.
local function settlePortion(key, cursor)
  local page, n = redis.call('HSCAN', key, cursor, 'COUNT', 500, 'NOVALUES'), 0
  local fields = page[2]
  for first = 1, #fields, 500 do -- unpack takes some thousands
    local last = math.min(first + 499, #fields)
    for i, at in ipairs(redis.call('HPEXPIRETIME', key, 'FIELDS', last - first + 1, unpack(fields, first, last))) do
      local ms = settled(at, fieldShift)
      if ms then
        redis.call('HPEXPIREAT', key, ms, 'FIELDS', 1, fields[first + i - 1])
        n = n + 1
      end
    end
  end
  return page[1], n
end

local function settleFields(key)
  local cursor, n, all = '0', 0, 0
  repeat
    cursor, n = settlePortion(key, cursor)
    all = all + n
  until cursor == '0'
  return all
end
`

// settleKeysScript settles keys, however large, in the database that is selected: for the transaction whose next command copies or compares their expiries.
// KEYS: the keys. ARGV: as above. Replies how many keys and how many hash fields it has settled.
const settleKeysScript = settleFunctions + settleKeys

const settleKeys = `
local keys, fields = 0, 0
for _, key in ipairs(KEYS) do
  if isHash(key) then fields = fields + settleFields(key) end
  keys = keys + settleKey(key)
end
return {keys, fields}`

// shiftKeysScript takes them back: for a command with a condition, where new expiries are shifted again and those that are there were settled.
// KEYS, ARGV and the reply are the same.
const shiftKeysScript = settleFunctions + `
settled = function(ms, shift)
  if ms > 0 and ms < distant then return string.format('%.0f', math.max(1, ms - grace) + shift) end
end
` + settleKeys

// settleFence lets the pass's scripts go on only as long as the migration is the caller's, and into the database that they are about; SELECT in a script holds until
// its end. KEYS: owner. ARGV: grace, epoch, database. Replies nothing but the owner's epoch when it is another one.
const settleFence = settleFunctions + `
redis.call('SELECT', 0)
local epoch = redis.call('HGET', KEYS[1], 'epoch')
if epoch ~= ARGV[2] then return {epoch or ''} end
redis.call('SELECT', ARGV[3])
`

// settlePageScript settles what comes next in a database, and stops after so many keys and fields that the target's other clients do not notice. Hashes with many
// fields are left to settleHashScript. KEYS: owner. ARGV: grace, epoch, database, cursor.
// Replies: the next cursor, keys looked at, keys settled, fields settled, and the large hashes.
const settlePageScript = settleFence + `
local cursor, room = ARGV[4], 1000
local looked, keys, fields, large = 0, 0, 0, {}
repeat
  local page = redis.call('SCAN', cursor, 'COUNT', 10)
  cursor, looked, room = page[1], looked + #page[2], room - 10
  for _, key in ipairs(page[2]) do
    if string.sub(key, 1, 9) ~= 'redferry:' then
      if isHash(key) then
        local n = redis.call('HLEN', key)
        if n > 200 then
          table.insert(large, key)
        else
          fields, room = fields + settleFields(key), room - n
        end
      end
      keys = keys + settleKey(key)
    end
  end
until cursor == '0' or room <= 0
return {cursor, looked, keys, fields, large}`

// settleHashScript settles a portion of a large hash. KEYS: owner, the hash. ARGV: grace, epoch, database, cursor.
// Replies: the next cursor, keys settled, which are none, and fields settled.
const settleHashScript = settleFence + `
if not isHash(KEYS[2]) then return {'0', 0, 0} end
local cursor, n = settlePortion(KEYS[2], ARGV[4])
return {cursor, 0, n}`
