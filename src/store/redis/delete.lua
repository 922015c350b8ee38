-- Erases one session and tells its subscribers.
--
-- KEYS  1 meta (hash)  2 events (stream)  3 commands (stream)
-- ARGV  1 channel
--
-- Gives 1: erased.  0: there was none.  -1: not in this millisecond, ask again.
--
-- Why not: made again within the millisecond of its last entry, the session would give the same id to another entry, and
-- a client of the old log would read on in the new one without noticing.

local have = redis.call('HMGET', KEYS[1], 'v', 'at', 'e', 'c')
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
for i = 2, 4 do
  if have[i] and tonumber(string.match(have[i], '^%d+')) == now then return -1 end
end
redis.call('DEL', unpack(KEYS))
if not have[1] then return 0 end
redis.call('PUBLISH', ARGV[1], 'd')
return 1
