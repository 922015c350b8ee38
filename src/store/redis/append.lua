-- The commits that there are most of: events, with nothing else to decide. One call takes those of many sessions. Does for
-- each what commit.lua would do, in a third of its time, and leaves what it is not made for to commit.lua: another
-- state, a ttl to renew, a clock that went back, a producer that is new or does not go on where it stopped.
--
-- KEYS  for each commit: meta (hash), events (stream)
-- ARGV  1 renews the ttl ('1')  2 cap (entries)  3 largest push (bytes)
--       then for each commit: expected version, conditions, how many payloads, payloads
--       conditions: '' or "<not before, ms> <before, ms, 0 = ever> <touched run, may be empty>", and then, for numbered
--       events, " <producer id> <epoch> <seq>"
--
-- Gives for each commit the id of its first event, '' if nothing was done, or '!' and the error.

local call = redis.call
local renews, cap, push_max = ARGV[1] == '1', ARGV[2], tonumber(ARGV[3])
local time = call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local function append(meta, events, at)
  local from, to, run, producer, epoch, seq
  if ARGV[at + 1] ~= '' then
    from, to, run, producer = string.match(ARGV[at + 1], '^(%d+) (%d+) (%S*) ?(.*)$')
    if now < tonumber(from) or (to ~= '0' and now >= tonumber(to)) then return '' end
    if producer ~= '' then producer, epoch, seq = string.match(producer, '^(%S+) (%d+) (%d+)$') end
  end
  local numbered = producer and producer ~= ''

  local have
  if numbered then
    have = call('HMGET', meta, 'v', 'e', 'c', 't', 'p.' .. producer)
  else
    have = call('HMGET', meta, 'v', 'e', 'c', 't')
  end
  if have[1] ~= ARGV[at] or not have[2] then return '' end
  local ms, n = string.match(have[2], '^(%d+)%-(%d+)$')
  if now < tonumber(ms)
    or (have[3] and now < tonumber(string.match(have[3], '^%d+')))
    or (renews and now >= tonumber(have[4] or 0)) then
    return ''
  end
  if numbered then
    local e, next = string.match(have[5] or '', '^(%d+) (%d+) ')
    if e ~= epoch or next ~= seq then return '' end
  end

  local first, count = string.format('%d-%d', now, n + 1), ARGV[at + 2]
  local last, push, size = first, ARGV[at + 3], #ARGV[at + 3]
  call('XADD', events, 'MAXLEN', '~', cap, first, 'p', push)
  if count ~= '1' then
    local payloads = { push }
    for i = 2, tonumber(count) do
      local payload = ARGV[at + 2 + i]
      last = string.format('%d-%d', now, n + i)
      call('XADD', events, 'MAXLEN', '~', cap, last, 'p', payload)
      payloads[i], size = payload, size + #payload
    end
    if size <= push_max then push = table.concat(payloads, '\n') end
  end
  if from then
    local set = { 'e', last }
    if run ~= '' then
      set[3], set[4] = 'u.' .. run, string.format('%d', now)
    end
    if numbered then
      set[#set + 1] = 'p.' .. producer
      set[#set + 1] = string.format('%s %d %s %d %d', epoch, seq + count, seq, now, n + 1)
    end
    call('HSET', meta, unpack(set))
  else
    call('HSET', meta, 'e', last)
  end
  local channel = string.sub(meta, 1, -5) .. 'tail'
  call('PUBLISH', channel, size <= push_max and 'e' .. first .. '\n' .. push or 'E' .. last)
  return first
end

local results, at = {}, 4
for i = 1, #KEYS, 2 do
  local done, result = pcall(append, KEYS[i], KEYS[i + 1], at)
  results[#results + 1] = done and result or '!' .. (type(result) == 'table' and result.err or tostring(result))
  at = at + 3 + ARGV[at + 2]
end
return results
