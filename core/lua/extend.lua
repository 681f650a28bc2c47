#!lua flags=allow-oom
-- Extends leases by the clock of Redis, with RQ's own traces of the executions; also where nothing new is taken, else jobs that run would be given to others.
-- A lease that lapsed and was taken away stays away.
-- ARGV: ms, then for each lease: its registry, its member, RQ's execution, RQ's executions of the job, id of the execution
local ms, until_s = tonumber(ARGV[1]), (clock_ms() + ARGV[1]) / 1000
for i = 2, #ARGV, 5 do
  redis.call('ZADD', ARGV[i], 'XX', until_s, ARGV[i + 1])
  redis.call('PEXPIRE', ARGV[i + 2], ms)
  redis.call('ZADD', ARGV[i + 3], 'XX', until_s, ARGV[i + 4])
  redis.call('PEXPIRE', ARGV[i + 3], ms + 60000)
end
