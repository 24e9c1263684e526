-- Counts one request against all limits of its caller, or says which of them has no room: in one step, on one clock.
-- KEYS  1 requests and 2 tokens of the last minute: hashes of amounts by second; 3 tokens by day: a hash; 4 leases: a
--       sorted set by the time at which they run out
-- ARGV  1 time in seconds, empty for the server's; limits, empty for none: 2 requests a minute, 3 tokens a minute,
--       4 tokens a day, 5 requests at one time; 6 tokens of this request; 7 its lease; 8 how long that lasts in seconds
-- Gives 1 the limit that has no room (1 to 4; 0: the request is counted), 2 until it has, in ms, 3 second, 4 day,
--       5 requests used, 6 their reset in ms, 7 tokens used, 8 their reset in ms, 9 tokens of the day, 10 running,
--       11 until the day ends in ms
local MINUTE, DAY, BUSY_MS = 60, 86400, 1000

local now = tonumber(ARGV[1])
if not now then
  local time = redis.call('TIME')
  now = tonumber(time[1]) + tonumber(time[2]) / 1000000
end
local second, day = math.floor(now), math.floor(now / DAY)
local limits = {tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])}
local tokens, lease, lease_s = tonumber(ARGV[6]), ARGV[7], tonumber(ARGV[8])

local function ms(seconds)
  return math.ceil(seconds * 1000)
end

local function minute(key)
  local found, amounts, used = redis.call('HGETALL', key), {}, 0
  for i = 1, #found, 2 do
    local at, amount = tonumber(found[i]), tonumber(found[i + 1])
    if at < second - MINUTE then
      redis.call('HDEL', key, found[i])
    else
      used = used + amount
      amounts[#amounts + 1] = {at = at, amount = amount}
    end
  end
  table.sort(amounts, function(one, other) return one.at < other.at end)
  return {amounts = amounts, used = used}
end

local function wait(window, amount, limit)
  local over = window.used + amount - limit
  if over <= 0 then return 0 end
  for _, held in ipairs(window.amounts) do
    over = over - held.amount
    if over <= 0 then return ms(held.at + MINUTE + 1 - now) end
  end
  return ms(MINUTE + 1)
end

local function reset(window)
  local last = window.amounts[#window.amounts]
  return last and ms(last.at + MINUTE + 1 - now) or 0
end

local function today()
  for _, field in ipairs(redis.call('HKEYS', KEYS[3])) do
    if tonumber(field) < day then redis.call('HDEL', KEYS[3], field) end
  end
  return tonumber(redis.call('HGET', KEYS[3], day) or 0)
end

local function running()
  redis.call('ZREMRANGEBYSCORE', KEYS[4], '-inf', now)
  return redis.call('ZCARD', KEYS[4])
end

local requests_minute = limits[1] and minute(KEYS[1]) or {amounts = {}, used = 0}
local tokens_minute = limits[2] and minute(KEYS[2]) or {amounts = {}, used = 0}
local used_today = limits[3] and today() or 0
local concurrent = limits[4] and running() or 0

local refused, wait_ms = 0, 0
local function check(number, needed_ms)
  if needed_ms > wait_ms then refused, wait_ms = number, needed_ms end
end
if limits[1] then check(1, wait(requests_minute, 1, limits[1])) end
if limits[2] then check(2, wait(tokens_minute, tokens, limits[2])) end
if limits[3] and used_today + tokens > limits[3] then check(3, ms((day + 1) * DAY - now)) end
if limits[4] and concurrent >= limits[4] then check(4, BUSY_MS) end

local function add(key, window, amount)
  redis.call('HINCRBY', key, second, amount)
  redis.call('EXPIRE', key, MINUTE + 2)
  window.used = window.used + amount
  window.amounts[#window.amounts + 1] = {at = second, amount = amount}
end

if refused == 0 then
  if limits[1] then add(KEYS[1], requests_minute, 1) end
  if limits[2] then add(KEYS[2], tokens_minute, tokens) end
  if limits[3] then
    used_today = redis.call('HINCRBY', KEYS[3], day, tokens)
    redis.call('EXPIRE', KEYS[3], DAY + 60)
  end
  if limits[4] then
    redis.call('ZADD', KEYS[4], now + lease_s, lease)
    redis.call('EXPIRE', KEYS[4], math.ceil(lease_s * 2))
    concurrent = concurrent + 1
  end
end

return {
  refused, wait_ms, second, day, requests_minute.used, reset(requests_minute), tokens_minute.used,
  reset(tokens_minute), used_today, concurrent,
  limits[3] and ms((day + 1) * DAY - now) or 0,
}
