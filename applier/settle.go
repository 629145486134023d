package applier

// Settling gives the target's expiries the form that they should have: those from a moment on as the source has them, and earlier ones
// shifted. A script does it key by key, so that nobody writes between its look and its write. It may be done again: what has the right form
// stays. The server deletes what is over by then.
//
// The scripts ask the server itself what it knows: they are the same for all.

// settleFunctions are what the scripts share. ARGV: real, epoch, database, cursor, below, cut. Shifted expiries whose original is at below, or
// later, become real. Real ones in [real, below) become shifted; earlier real ones are not a migration's, and stay.
const settleFunctions = `
local keyShift, fieldShift, distant = 2^52, 2^45, 2^44
local real, below, cut = tonumber(ARGV[1]), tonumber(ARGV[5]), tonumber(ARGV[6])
local redisVersion, valkeyVersion = redis.REDIS_VERSION_NUM or 0, redis.VALKEY_VERSION_NUM or 0
local absolute = redisVersion >= 0x070000 -- there is PEXPIRETIME
local fieldsExpire = redisVersion >= 0x070400 or valkeyVersion >= 0x090000

local function now()
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end

-- A key's expiry; below 0 when it has none.
local function expiry(key)
  if absolute then return redis.call('PEXPIRETIME', key) end
  local left, t
  repeat
    t = now()
    left = redis.call('PTTL', key)
    if left < 0 then return left end
  until now() == t -- else a ms has ended in between
  return t + left
end

-- What a moment is to be written as, or nil where it has its form; and the original where it ends up shifted and is near.
local function formed(ms, shift)
  if ms >= shift and ms < shift + distant then
    if ms - shift >= below then return ms - shift end
    if ms - shift < cut then return nil, ms - shift end
  elseif ms >= real and ms >= 0 and ms < below then
    return ms + shift, ms < cut and ms or nil
  end
end

local function settleKey(key)
  local to, near = formed(expiry(key), keyShift)
  if not to then return 0, near end
  redis.call('PEXPIREAT', key, string.format('%.0f', to))
  return 1, near
end

local function isHash(key) return fieldsExpire and redis.call('TYPE', key).ok == 'hash' end

local function nearer(a, b)
  if a and b then return math.min(a, b) end
  return a or b
end

-- Settles those fields of a hash that one HSCAN gives: some hundreds, or all where the hash is one piece of memory. Replies where the
-- next begins, how many it settled, and the nearest that is shifted.
local function settlePortion(key, cursor)
  local page, n, near = redis.call('HSCAN', key, cursor, 'COUNT', 500, 'NOVALUES'), 0, nil
  local fields = page[2]
  for first = 1, #fields, 500 do -- unpack takes some thousands
    local last = math.min(first + 499, #fields)
    for i, at in ipairs(redis.call('HPEXPIRETIME', key, 'FIELDS', last - first + 1, unpack(fields, first, last))) do
      local to, one = formed(at, fieldShift)
      if to then
        redis.call('HPEXPIREAT', key, string.format('%.0f', to), 'FIELDS', 1, fields[first + i - 1])
        n = n + 1
      end
      near = nearer(near, one)
    end
  end
  return page[1], n, near
end

local function settleFields(key)
  local cursor, n, all, near, one = '0', 0, 0, nil, nil
  repeat
    cursor, n, one = settlePortion(key, cursor)
    all, near = all + n, nearer(near, one)
  until cursor == '0'
  return all, near
end
`

// formScript gives keys their form, however large they are, in the database that is selected. It is for the transaction whose next command
// takes their expiries elsewhere, or compares them, or whose last one has set some in a script. KEYS: the keys. ARGV: as above.
const formScript = settleFunctions + `
for _, key in ipairs(KEYS) do
  if isHash(key) then settleFields(key) end
  settleKey(key)
end
return 1`

// settleFence lets the pass's scripts go on only as long as the migration is the caller's, and into the database that they are about; SELECT in a script holds until
// its end. KEYS: owner. ARGV: as above. Replies nothing but the owner's epoch when it is another one.
const settleFence = settleFunctions + `
redis.call('SELECT', 0)
local epoch = redis.call('HGET', KEYS[1], 'epoch')
if epoch ~= ARGV[2] then return {epoch or ''} end
redis.call('SELECT', ARGV[3])

local looked, keys, fields, large, nearest = 0, 0, 0, {}, {}

-- Settles a key, but the fields of a large hash, which settleHashScript does. Replies how much it had to look at.
local function settleWhole(key)
  local size, near, n = 1, nil, 0
  if isHash(key) then
    size = redis.call('HLEN', key)
    if size > 200 then
      table.insert(large, key)
      size = 1
    else
      n, near = settleFields(key)
      fields = fields + n
    end
  end
  local one
  n, one = settleKey(key)
  keys, near = keys + n, nearer(near, one)
  if near then
    table.insert(nearest, key)
    table.insert(nearest, string.format('%.0f', near))
  end
  return size
end
`

// settlePageScript settles what comes next in a database, and stops after so many keys and fields that the target's other clients do not notice.
// Replies: the next cursor, keys looked at, keys settled, fields settled, the large hashes, and the keys that are near, each with its moment.
const settlePageScript = settleFence + `
local cursor, room = ARGV[4], 1000
repeat
  local page = redis.call('SCAN', cursor, 'COUNT', 10)
  cursor, looked, room = page[1], looked + #page[2], room - 10
  for _, key in ipairs(page[2]) do
    if string.sub(key, 1, 9) ~= 'redferry:' then room = room - settleWhole(key) + 1 end
  end
until cursor == '0' or room <= 0
return {cursor, looked, keys, fields, large, nearest}`

// settleListScript settles the keys that it is given. KEYS: owner, the keys. Replies as settlePageScript.
const settleListScript = settleFence + `
for i = 2, #KEYS do settleWhole(KEYS[i]) end
return {'0', #KEYS - 1, keys, fields, large, nearest}`

// settleHashScript settles a portion of a large hash. KEYS: owner, the hash.
// Replies: the next cursor, keys looked at and keys settled, which are none, fields settled, and the hash where one of them is near.
const settleHashScript = settleFence + `
if not isHash(KEYS[2]) then return {'0', 0, 0, 0, {}, {}} end
local cursor, n, near = settlePortion(KEYS[2], ARGV[4])
if near then nearest = {KEYS[2], string.format('%.0f', near)} end
return {cursor, 0, 0, n, {}, nearest}`

// settledScript ends a migration's settling: nothing is shifted any more. Where a cutover has completed the migration, its owner goes, too.
// KEYS: owner, checkpoint, fence. ARGV: epoch. Replies 0, or the epoch of another owner.
const settledScript = `
local e = redis.call('HGET', KEYS[1], 'epoch')
if e ~= ARGV[1] then return e or '-1' end
if redis.call('HEXISTS', KEYS[2], 'format') == 1 then
  redis.call('HSET', KEYS[2], 'expiry', 'as-is', 'real_from', '0')
end
if redis.call('HGET', KEYS[2], 'phase') ~= 'stream' then redis.call('DEL', KEYS[1], KEYS[3]) end
return '0'`
