-- Runs commands that only read, at one instant.
--
-- KEYS  1 a key of the session, for the cluster to find it by
-- ARGV  the commands, each led by the number of its words
--
-- Gives their replies.

local replies, at = {}, 1
while at <= #ARGV do
  local last = at + tonumber(ARGV[at])
  replies[#replies + 1] = redis.call(unpack(ARGV, at + 1, last))
  at = last + 1
end
return replies
