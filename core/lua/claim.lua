-- Takes up to n waiting jobs for a worker and puts each on its queue's intermediate list, in one step.
-- Order: the priorities in turn; within one priority the model whose head is oldest; within one queue the tenant whose last turn is longest
-- ago, and its jobs in the order in which they came. A tenant of which workers hold as many jobs as they may is passed over.
-- One claim in four goes to the oldest head that has waited too long, whatever its priority, so that nothing starves and an old backlog does
-- not undo the priorities. Job ids are ULIDs, so that older ids are smaller and their first ten letters are their time.
-- A worker leaves the jobs of a queue to one that holds fewer, has room for them, and has asked for this queue too within its own pause between
-- two claims, so that a burst is spread over the workers that are idle. What they ask is kept out of the log and of replicas: it is worth
-- nothing a second later.
-- KEYS: for each priority in turn, the queue of each model:  q[p1,m1], q[p1,m2], ..., q[p2,m1], ...; then as many: their turns
-- ARGV: n, models, overdue (ids below this have waited too long), jobs of a tenant that may be held (0: any number) where it has no number
--       of its own, the claimant as JSON ({name ('': none, which leaves nothing to others), held, asks_again_ms, room, rooms: of each model,
--       but: tenants whose jobs it may not take, as it is full; then nobody is to wait for it}), then for each queue the beginning of its lines'
--       names
-- Returns {queue key, id, queue key, id, ...}; false where jobs wait and all are left to other workers
local n, models, overdue, limit = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3], tonumber(ARGV[4])
local claimant = cjson.decode(ARGV[5])
local LINES, ASKING = 5, 'outfill:asking'
local queues = #KEYS / 2
local taken, room = {}, {}
local others -- what others ask, once it was read

local function held()
  return claimant.held + #taken / 2
end

local function unlogged(...)
  redis.set_repl(redis.REPL_NONE)
  redis.call(...)
  redis.set_repl(redis.REPL_ALL)
end

local function model_of(i)
  return (i - 1) % models + 1
end

local function ask()
  local asked = {}
  for i = 1, claimant.room > 0 and queues or 0 do
    if claimant.rooms[model_of(i)] > 0 then table.insert(asked, KEYS[i]) end
  end
  unlogged('HSET', ASKING, claimant.name, cjson.encode({held(), clock_ms() + claimant.asks_again_ms, asked}))
end

-- The queues for which workers ask that hold fewer.
local function asked_by_idler()
  local found = {}
  if claimant.name == '' or held() == 0 then return found end
  local entries, now = redis.call('HGETALL', ASKING), clock_ms()
  for n = 1, #entries, 2 do
    local its_held, until_ms, asked = unpack(cjson.decode(entries[n + 1]))
    if until_ms < now then
      unlogged('HDEL', ASKING, entries[n])
    elseif entries[n] ~= claimant.name and its_held < held() then
      for _, queue in ipairs(asked) do found[queue] = true end
    end
  end
  return found
end

local function is_for_another(i)
  others = others or asked_by_idler()
  return others[KEYS[i]]
end

local function has_room(tenant)
  if claimant.but[tenant] then return false end
  if room[tenant] == nil then
    local most = tonumber(redis.call('HGET', 'outfill:tenant:' .. tenant, 'running_jobs') or limit)
    room[tenant] = most == 0 and math.huge or most - redis.call('SCARD', 'outfill:running:' .. tenant)
  end
  return room[tenant] > 0
end

local function first_of(i)
  local first = 0
  while true do
    local tenants = redis.call('ZRANGE', KEYS[queues + i], first, first + 15)
    if #tenants == 0 then return nil end
    for _, tenant in ipairs(tenants) do
      if has_room(tenant) then
        local head = redis.call('ZRANGE', ARGV[LINES + i] .. tenant, 0, 0)[1]
        if head then return head, tenant end
      end
    end
    first = first + 16
  end
end

local left = false

local function head_of(i)
  local head, tenant = first_of(i)
  if head and is_for_another(i) then
    left = true
    return nil
  end
  return head, tenant
end

while #taken < 2 * n do
  local best, best_id, best_tenant
  local overdue_turn = redis.call('INCR', 'outfill:claims') % 4 == 0
  for i = 1, overdue_turn and queues or 0 do
    local head, tenant = head_of(i)
    if head and head < overdue and (not best_id or head < best_id) then best, best_id, best_tenant = i, head, tenant end
  end
  local first = 1
  while not best and first <= queues do
    for i = first, first + models - 1 do
      local head, tenant = head_of(i)
      if head and (not best_id or head < best_id) then best, best_id, best_tenant = i, head, tenant end
    end
    first = first + models
  end
  if not best then break end
  local queue, line = KEYS[best], ARGV[LINES + best] .. best_tenant
  redis.call('ZREM', line, best_id)
  if redis.call('EXISTS', line) == 1 then
    redis.call('ZADD', KEYS[queues + best], redis.call('INCR', 'outfill:places'), best_tenant)
  else
    redis.call('ZREM', KEYS[queues + best], best_tenant)
  end
  redis.call('LREM', queue, 1, best_id)
  if redis.call('HGET', 'outfill:job:' .. best_id, 'status') == 'queued' then -- else a slow worker had begun it before it was given back
    redis.call('RPUSH', queue .. ':intermediate', best_id)
    redis.call('SADD', 'outfill:running:' .. best_tenant, best_id)
    room[best_tenant] = room[best_tenant] - 1
    claimant.room, claimant.rooms[model_of(best)] = claimant.room - 1, claimant.rooms[model_of(best)] - 1
    others = nil -- as it holds more now
    table.insert(taken, queue)
    table.insert(taken, best_id)
  end
end
if claimant.name ~= '' and not next(claimant.but) then ask() end
return (#taken > 0 or not left) and taken
