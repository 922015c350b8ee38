-- The commits that there are most of: events, with nothing else to decide. One call takes those of many sessions. Does for
-- each what commit.lua would do, in a third of its time, and leaves what it is not made for to commit.lua: another
-- state, a ttl to renew, a clock that went back.
--
-- KEYS  for each commit: meta (hash), events (stream)
-- ARGV  1 renews the ttl ('1')  2 cap (entries)  3 largest push (bytes)
--       then for each commit: expected version, conditions, how many payloads, payloads
--       conditions: '' or "<not before, ms> <before, ms, 0 = ever> <touched run, may be empty>"
--
-- Gives for each commit the id of its first event, '' if nothing was done, or '!' and the error.

local call = redis.call
local renews, cap, push_max = ARGV[1] == '1', ARGV[2], tonumber(ARGV[3])
local time = call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local function append(meta, events, at)
  local have = call('HMGET', meta, 'v', 'e', 'c', 't')
  if have[1] ~= ARGV[at] or not have[2] then return '' end
  local ms, n = string.match(have[2], '^(%d+)%-(%d+)$')
  if now < tonumber(ms)
    or (have[3] and now < tonumber(string.match(have[3], '^%d+')))
    or (renews and now >= tonumber(have[4] or 0)) then
    return ''
  end
  local run
  if ARGV[at + 1] ~= '' then
    local from, to
    from, to, run = string.match(ARGV[at + 1], '^(%d+) (%d+) (.*)$')
    if now < tonumber(from) or (to ~= '0' and now >= tonumber(to)) then return '' end
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
  if run and run ~= '' then
    call('HSET', meta, 'e', last, 'u.' .. run, string.format('%d', now))
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
