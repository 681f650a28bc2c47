#!lua flags=allow-oom
-- Puts jobs back into their lines whose pauses are over. Returns how many.
-- KEYS: jobs set aside by when their pauses are over   ARGV: how many at most
local back = 0
for _, entry in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', clock_ms(), 'LIMIT', 0, ARGV[1])) do
  redis.call('ZREM', KEYS[1], entry)
  back = back + line_up_again(string.match(entry, '^(.*)/([^/]*)$'))
end
return back
