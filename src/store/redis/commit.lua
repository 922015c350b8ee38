-- One commit to one session: see `Commit` in store.rs. All or nothing.
--
-- KEYS  1 meta (hash)  2 events (stream)  3 commands (stream)
-- ARGV  1 channel  2 expected version ('' = no session)  3 version from now on
--       4 not before (ms)  5 before (ms, '' = ever)  6 ttl (ms, 0 = keep)  7 cap (entries)  8 largest push (bytes)  9 closes ('1')
--       then, each led by its count:
--       untouched: run, ms seen    issued: key    changes: key, value ('' = drop)
--       parts: producer id ('' = none), epoch, seq, #events, #commands, #touched, runs touched, payloads of events, of
--       commands
--
-- meta  v version  at created (ms)  x closed (ms)  e, c last id of the lane  t next renewal of the ttl (ms)
--       r.<key> record   u.<run> last touched (ms)   p.<producer> "epoch next from ms n"   pn number of producers
--
-- Gives {'ok', now, part, part, ...} or {'conflict', now, [v, at, x, key, value, ...]}, where a part is
--       {events from, commands from, skipped} or {refusal, number, ...}.

local meta, lanes = KEYS[1], { KEYS[2], KEYS[3] }
local channel, fresh_version, cap, push_max = ARGV[1], ARGV[3], ARGV[7], tonumber(ARGV[8])
local closes = ARGV[9] == '1'
local at = 9

local function arg()
  at = at + 1
  return ARGV[at]
end

-- Most counts are zero, and turning texts into numbers and back is much of what this script costs (floating point; a
-- profile of Redis 7.0): so zeros are compared as texts, and whole numbers are printed with %d.
local function count()
  local text = arg()
  return text == '0' and 0 or tonumber(text)
end

local function split(id) -- "<ms>-<n>" into two numbers
  if not id then return 0, 0 end
  local dash = string.find(id, '-', 1, true)
  return tonumber(string.sub(id, 1, dash - 1)), tonumber(string.sub(id, dash + 1))
end

local have = redis.call('HMGET', meta, 'v', 'e', 'c', 'at', 't')
local version = have[1]
local events_ms, events_n = split(have[2])
local commands_ms, commands_n = split(have[3])
local time = redis.call('TIME')
local clock = time[1] * 1000 + math.floor(time[2] / 1000)
-- The session's time never goes back, whatever the clock does.
local now = math.max(clock, events_ms, commands_ms, tonumber(have[4] or 0))

local function id(n)
  return string.format('%d-%d', now, n)
end

local stale = (version or '') ~= ARGV[2]
  or (ARGV[4] ~= '0' and now < tonumber(ARGV[4]))
  or (ARGV[5] ~= '' and now >= tonumber(ARGV[5]))
for _ = 1, count() do
  local run, seen = arg(), tonumber(arg())
  if not stale then
    local touched = redis.call('HGET', meta, 'u.' .. run)
    stale = touched and tonumber(touched) > seen
  end
end
if stale then
  local state = {}
  if version then
    local all = redis.call('HGETALL', meta)
    for i = 1, #all, 2 do
      local key = all[i]
      local kind = string.sub(key, 1, 2)
      if kind == 'r.' or kind == 'u.' or key == 'v' or key == 'at' or key == 'x' then
        state[#state + 1] = key
        state[#state + 1] = all[i + 1]
      end
    end
  end
  return { 'conflict', now, state }
end

-- What is written to meta: kept back until the streams have taken the entries, so that a refused XADD (out of memory,
-- a foreign type at the key) leaves nothing half done.
local set, drop = {}, {}
local function put(key, value)
  set[#set + 1] = key
  set[#set + 1] = value
end
local function flush()
  for i = 1, #set, 1000 do -- unpack has a limit
    redis.call('HSET', meta, unpack(set, i, math.min(i + 999, #set)))
  end
  for i = 1, #drop do
    redis.call('HDEL', meta, drop[i])
  end
end

local issued = {} -- which command of this commit a record belongs to
for command = 1, count() do
  issued[arg()] = command
end
local changes, records = count(), {}
for _ = 1, changes do
  local key = arg()
  records[key] = arg() -- the last change of a key counts
end
for key, value in pairs(records) do
  if issued[key] and value ~= '' then value = value .. ' ' .. id(commands_n + issued[key]) end
  if value ~= '' then
    put('r.' .. key, value)
  else
    drop[#drop + 1] = 'r.' .. key
  end
end
if closes then put('x', string.format('%d', now)) end

local lives, producers = {}, nil -- producers of earlier parts of this commit; how many the session has

-- How many events of a part to skip, or a refusal.
local function admit(id, epoch, seq, count)
  local life = lives[id] or redis.call('HGET', meta, 'p.' .. id)
  if not life then
    if seq > 0 then return { 'gap', 0 } end
    producers = producers or tonumber(redis.call('HGET', meta, 'pn') or 0)
    if producers >= PRODUCERS_MAX then return { 'producers' } end
    producers = producers + 1
    put('pn', producers)
    return 0
  end
  local e, next, from, ms, n = string.match(life, '^(%d+) (%d+) (%d+) (%d+) (%d+)$')
  e, next, from = tonumber(e), tonumber(next), tonumber(from)
  if epoch < e then return { 'stale', e } end
  if epoch > e then
    if seq > 0 then return { 'epoch' } end
    return 0
  end
  if seq > next then return { 'gap', next } end
  local skip = next - seq
  if skip < count then return skip end
  if seq >= from then return { 'duplicate', tonumber(ms), n + (seq - from) } end
  return { 'duplicate' }
end

local before = { events_n, commands_n }
local after = { events_n, commands_n }
local pushes, pushed = { {}, {} }, { 0, 0 } -- payloads to push, and their size

-- A session begins: nothing may be left of an earlier one whose meta was lost alone (an eviction, say).
local begun = version
local function begin()
  if not begun then
    begun = true
    -- Asked first: after any write Redis no longer refuses what a script does when memory is full.
    if redis.call('EXISTS', lanes[1], lanes[2]) > 0 then redis.call('DEL', lanes[1], lanes[2]) end
    put('v', fresh_version)
    put('at', string.format('%d', now))
  end
end

local made = false -- a stream has just come to be
local function append(lane, payload)
  local n = after[lane] + 1
  after[lane] = n
  if not redis.call('XADD', lanes[lane], 'NOMKSTREAM', 'MAXLEN', '~', cap, id(n), 'p', payload) then
    redis.call('XADD', lanes[lane], id(n), 'p', payload)
    made = true
  end
  local size = pushed[lane] + #payload
  pushed[lane] = size
  if size <= push_max then
    local push = pushes[lane]
    push[#push + 1] = payload
  end
end

local result = { 'ok', now }
local parts = count()
local both = parts == 1 and ARGV[at + 4] ~= '0' and ARGV[at + 5] ~= '0'
if version and (parts > 1 or both) then
  -- A foreign type at the key of one lane has to show before the other lane has taken entries.
  redis.call('XLEN', lanes[1])
  redis.call('XLEN', lanes[2])
end
for _ = 1, parts do
  local producer, epoch, seq, events, commands, touched = arg(), count(), count(), count(), count(), count()
  local skip = 0
  if producer ~= '' then
    skip = admit(producer, epoch, seq, events)
  end
  local refused = type(skip) == 'table' and skip[1] ~= 'duplicate'
  for _ = 1, touched do
    local run = arg()
    if not refused then put('u.' .. run, string.format('%d', now)) end
  end
  if type(skip) == 'table' then
    result[#result + 1] = skip
    at = at + events + commands
  else
    begin()
    result[#result + 1] = { after[1] + 1, after[2] + 1, skip }
    if producer ~= '' then
      lives[producer] = string.format('%d %d %d %d %d', epoch, seq + events, seq + skip, now, after[1] + 1)
      put('p.' .. producer, lives[producer])
    end
    at = at + skip
    for _ = skip + 1, events do append(1, arg()) end
    for _ = 1, commands do append(2, arg()) end
  end
end

local changed = changes > 0 or closes
if changed then begin() end
if changed and version then put('v', fresh_version) end
if after[1] > before[1] then put('e', id(after[1])) end
if after[2] > before[2] then put('c', id(after[2])) end
if #set == 0 and #drop == 0 then return result end

-- The ttl slides, renewed at most every tenth of it; and whenever a stream has just come to be.
local ttl = tonumber(ARGV[6])
local renew = ttl > 0 and (made or not (have[5] and now < tonumber(have[5])))
if renew then put('t', string.format('%d', now + ttl / 10)) end
flush()
if renew then
  local expiry = string.format('%d', clock + ttl)
  redis.call('PEXPIREAT', meta, expiry)
  redis.call('PEXPIREAT', lanes[1], expiry)
  redis.call('PEXPIREAT', lanes[2], expiry)
end

for lane = 1, 2 do
  if after[lane] > before[lane] then
    if pushed[lane] <= push_max then
      local first = (lane == 1 and 'e' or 'c') .. id(before[lane] + 1)
      redis.call('PUBLISH', channel, first .. '\n' .. table.concat(pushes[lane], '\n'))
    else
      redis.call('PUBLISH', channel, (lane == 1 and 'E' or 'C') .. id(after[lane]))
    end
  end
end
if changed then redis.call('PUBLISH', channel, '*') end
if closes then redis.call('PUBLISH', channel, 'x') end
return result
