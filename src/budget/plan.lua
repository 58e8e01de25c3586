-- The plan of a group that many machines share, and what they have used of its quota: usage.rs is
-- the rule of the latter, and says why.
--
-- KEYS[1]  hash: the plan, behind the number of its version
-- KEYS[2]  string: 16 bytes for each machine (who, and bytes used in this period), after 16 bytes
--          for what was used by machines of which nothing else is known
-- ARGV     a plan that is taken if it is newer, or nothing; machine, bytes used, bytes known to be
--          used in all, how long to keep that in milliseconds, or nothing
-- Returns the time in milliseconds, bytes used in all, and the newest plan.

local call, pack, unpack = redis.call, struct.pack, struct.unpack
local time = call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local kept = call('HMGET', KEYS[1], 'plan')[1]
local offered = ARGV[1]
if offered ~= '' and (not kept or unpack('<d', offered) > unpack('<d', kept)) then
  call('HSET', KEYS[1], 'plan', offered)
  kept = offered
end

local total = 0
if ARGV[2] then
  local machine, used, known = ARGV[2], unpack('<d', ARGV[3]), unpack('<d', ARGV[4])
  local data = call('GET', KEYS[2]) or ''
  if #data < 16 or #data % 16 ~= 0 then
    data = pack('<c8d', string.rep('\0', 8), 0)
  end
  local lost, records, found = unpack('<d', data, 9), {}, false
  for at = 16, #data - 16, 16 do
    local who, bytes = unpack('<c8d', data, at + 1)
    if who == machine then
      found, bytes = true, math.max(bytes, used)
    end
    total = total + bytes
    records[#records + 1] = pack('<c8d', who, bytes)
  end
  if not found then
    lost = math.max(lost - used, 0)
    total = total + used
    records[#records + 1] = pack('<c8d', machine, used)
  end
  lost = math.max(lost, known - total)
  total = total + lost
  call('SET', KEYS[2], pack('<c8d', string.rep('\0', 8), lost) .. table.concat(records))
  call('PEXPIRE', KEYS[2], ARGV[5])
end
return pack('<dd', now, total) .. (kept or '')
