-- The clock of Redis, of the scripts that say when something is due: those of workers, stewards and APIs may each be wrong. It stands before them.
local function clock_ms()
  local now = redis.call('TIME')
  return now[1] * 1000 + math.floor(now[2] / 1000)
end
