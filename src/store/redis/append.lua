-- The commits that there are most of: events, with nothing else to decide. One call takes those of many sessions. Does for
-- each what commit.lua would do, in a third of its time, and leaves what it is not made for to commit.lua: another
-- state, a ttl to renew, a lane that is gone (Redis evicted it), a clock that went back, a producer that is new or does not
-- go on where it stopped.
--
-- KEYS  for each commit: meta (hash), events (stream)
-- ARGV  1 renews the ttl ('1')  2 cap (entries)  3 largest push (bytes)
--       then for each commit: expected version, conditions, how many payloads, payloads
--       conditions: '' or "<not before, ms> <before, ms, 0 = ever> <touched run, may be empty>", and then, for numbered
--       events, " <producer id> <epoch> <seq>"
--
-- Gives for each commit the id of its first event, '' if nothing was done, or '!' and the error.

local call, format, match, ARGV = redis.call, string.format, string.match, ARGV
local renews, cap, push_max = ARGV[1] == '1', ARGV[2], tonumber(ARGV[3])
local time = call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local now_text = format('%d', now)
local stem = now_text .. '-' -- of every id of this call

-- Appends the payloads ARGV[from], ..., ARGV[to] as the entries n + 1, n + 2, ... to a lane that is there. Gives the last
-- id, and the bytes of the payloads; nothing where there is no lane. Besides XADD, most of what an event of a batch costs
-- is the text of its id: a number is printed once in a hundred, and the ids of that hundred differ from it in two digits.
-- The lane is trimmed every hundred entries, as many as a node of a stream has, and at the last one: each XADD trims a
-- bounded number, and one for a batch might not keep up.
local two = {} -- '00' to '99', those that were needed
local function append_all(events, n, from, to)
  local id, hundreds, size = nil, nil, 0
  for at = from, to do
    n = n + 1
    local rest = n % 100
    if n < 100 then
      id = stem .. format('%d', n)
    else
      if not hundreds or rest == 0 then hundreds = stem .. format('%d', (n - rest) / 100) end
      local digits = two[rest]
      if not digits then
        digits = format('%02d', rest)
        two[rest] = digits
      end
      id = hundreds .. digits
    end
    local payload = ARGV[at]
    size = size + #payload
    if at == from then
      if not call('XADD', events, 'NOMKSTREAM', id, 'p', payload) then return end
    elseif at == to or rest == 0 then
      call('XADD', events, 'MAXLEN', '~', cap, id, 'p', payload)
    else
      call('XADD', events, id, 'p', payload)
    end
  end
  return id, size
end

local function append(meta, events, at)
  local from, to, run, producer, epoch, seq
  local conditions = ARGV[at + 1]
  if conditions ~= '' then
    from, to, run, producer = match(conditions, '^(%d+) (%d+) (%S*) ?(.*)$')
    if now < tonumber(from) or (to ~= '0' and now >= tonumber(to)) then return '' end
    if producer ~= '' then producer, epoch, seq = match(producer, '^(%S+) (%d+) (%d+)$') end
  end
  local numbered = producer and producer ~= ''

  local have
  if numbered then
    have = call('HMGET', meta, 'v', 'e', 'c', 't', 'p.' .. producer)
  else
    have = call('HMGET', meta, 'v', 'e', 'c', 't')
  end
  if have[1] ~= ARGV[at] or not have[2] then return '' end
  local ms, n = match(have[2], '^(%d+)%-(%d+)$')
  if now < tonumber(ms)
    or (have[3] and now < tonumber(match(have[3], '^%d+')))
    or (renews and now >= tonumber(have[4] or 0)) then
    return ''
  end
  if numbered then
    local e, next = match(have[5] or '', '^(%d+) (%d+) ')
    if e ~= epoch or next ~= seq then return '' end
  end

  n = tonumber(n) -- once: each sum with a text would turn it into a number again
  local first, count = stem .. format('%d', n + 1), ARGV[at + 2]
  local last, push, size = first, ARGV[at + 3], nil
  if count == '1' then
    if not call('XADD', events, 'NOMKSTREAM', 'MAXLEN', '~', cap, first, 'p', push) then return '' end
    size = #push
  else
    local final = at + 2 + count
    last, size = append_all(events, n, at + 3, final)
    if not last then return '' end
    if size <= push_max then push = table.concat(ARGV, '\n', at + 3, final) end
  end
  if from then
    local set = { 'e', last }
    if run ~= '' then
      set[3], set[4] = 'u.' .. run, now_text
    end
    if numbered then
      set[#set + 1] = 'p.' .. producer
      set[#set + 1] = format('%s %d %s %d %d', epoch, seq + count, seq, now, n + 1)
    end
    call('HSET', meta, unpack(set))
  else
    call('HSET', meta, 'e', last)
  end
  -- "…:meta" becomes "…:tail"
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
