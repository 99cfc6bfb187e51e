---strftime as Python on Linux does it (C locale, a time without zone).
local base = require "moonlet.templates.jinja.base"

local M = {}

local DAYS = {"Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"}
local MONTHS = {"January", "February", "March", "April", "May", "June", "July", "August", "September", "October",
  "November", "December"}

-- Days from 1970-01-01 to a date of the proleptic Gregorian calendar.
local function days_from_civil(y, m, d)
  if m <= 2 then y = y - 1 end
  local era = y // 400
  local year_of_era = y - era * 400
  local day_of_year = (153 * ((m + 9) % 12) + 2) // 5 + d - 1
  return era * 146097 + year_of_era * 365 + year_of_era // 4 - year_of_era // 100 + day_of_year - 719468
end

local function civil_from_days(days)
  days = days + 719468
  local era = days // 146097
  local day_of_era = days % 146097
  local year_of_era = (day_of_era - day_of_era // 1460 + day_of_era // 36524 - day_of_era // 146096) // 365
  local day_of_year = day_of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
  local mp = (5 * day_of_year + 2) // 153
  local month = mp < 10 and mp + 3 or mp - 9
  return year_of_era + era * 400 + (month <= 2 and 1 or 0), month, day_of_year - (153 * mp + 2) // 5 + 1
end

local function is_leap(y)
  return y % 4 == 0 and (y % 100 ~= 0 or y % 400 == 0)
end

local MONTH_DAYS = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31}

local function from_iso(s)
  local y, mo, d, rest = s:match("^(%d%d%d%d)-(%d%d)-(%d%d)(.*)$")
  if not y then return nil end
  local h, mi, sec, fraction = "0", "0", "0", ""
  if rest ~= "" then
    h, mi, rest = rest:match("^[T ](%d%d):(%d%d)(.*)$")
    if not h then return nil end
    local seconds, after = rest:match("^:(%d%d)(.*)$")
    if seconds then sec, rest = seconds, after end
    local part, behind = rest:match("^%.(%d+)(.*)$")
    if part then fraction, rest = part, behind end
    if rest ~= "" and rest ~= "Z" and not rest:find("^[-+]%d%d:?%d%d$") then return nil end
  end
  local t = {year = tonumber(y), month = tonumber(mo), day = tonumber(d), hour = tonumber(h), min = tonumber(mi),
    sec = tonumber(sec), usec = tonumber((fraction .. "000000"):sub(1, 6))}
  local days = MONTH_DAYS[t.month]
  if not days or t.year < 1 or t.day < 1 or t.day > days + (t.month == 2 and is_leap(t.year) and 1 or 0) or t.hour > 23
    or t.min > 59 or t.sec > 59 then
    return nil
  end
  return t
end

---The fields of a moment.
---@param now string|number|nil  ISO 8601 (its fields as written, whatever its zone), seconds since the epoch (shown in
---the machine's zone), or nil: the clock
---@return table? fields  nil when it is neither
function M.fields(now)
  local t
  if type(now) == "string" then
    t = from_iso(now)
  else
    now = now or os.time()
    if type(now) ~= "number" or now ~= now or math.abs(now) > 1e11 then return nil end
    local whole = math.floor(now)
    local date = os.date("*t", whole)
    t = {year = date.year, month = date.month, day = date.day, hour = date.hour, min = date.min,
      sec = math.min(date.sec, 59), usec = math.floor((now - whole) * 1e6)}
  end
  if not t then return nil end
  t.days = days_from_civil(t.year, t.month, t.day)
  t.weekday = (t.days + 3) % 7 + 1 -- 1 is Monday
  t.yearday = t.days - days_from_civil(t.year, 1, 1) + 1
  return t
end

-- ISO year and week: those of the week's Thursday.
local function iso_week(t)
  local thursday = t.days - (t.weekday - 1) + 3
  local year = civil_from_days(thursday)
  return year, (thursday - days_from_civil(year, 1, 1)) // 7 + 1
end

local function hour12(t)
  return (t.hour + 11) % 12 + 1
end

-- Each directive: the number and its width, then the padding; or a text.
local NUMBERS = {
  d = function(t) return t.day, 2 end, m = function(t) return t.month, 2 end, H = function(t) return t.hour, 2 end,
  I = function(t) return hour12(t), 2 end, M = function(t) return t.min, 2 end, S = function(t) return t.sec, 2 end,
  y = function(t) return t.year % 100, 2 end, Y = function(t) return t.year, 1 end,
  C = function(t) return t.year // 100, 2 end, j = function(t) return t.yearday, 3 end,
  f = function(t) return t.usec, 6 end, u = function(t) return t.weekday, 1 end,
  w = function(t) return t.weekday % 7, 1 end, e = function(t) return t.day, 2, " " end,
  k = function(t) return t.hour, 2, " " end, l = function(t) return hour12(t), 2, " " end,
  U = function(t) return (t.yearday + 6 - t.weekday % 7) // 7, 2 end,
  W = function(t) return (t.yearday + 6 - (t.weekday - 1)) // 7, 2 end,
  V = function(t) return select(2, iso_week(t)), 2 end, G = function(t) return (iso_week(t)), 1 end,
  g = function(t) return iso_week(t) % 100, 2 end,
  s = function(t) return t.days * 86400 + t.hour * 3600 + t.min * 60 + t.sec, 1 end,
}
local TEXTS = {
  a = function(t) return DAYS[t.weekday]:sub(1, 3) end, A = function(t) return DAYS[t.weekday] end,
  b = function(t) return MONTHS[t.month]:sub(1, 3) end, B = function(t) return MONTHS[t.month] end,
  p = function(t) return t.hour < 12 and "AM" or "PM" end, P = function(t) return t.hour < 12 and "am" or "pm" end,
  z = function() return "" end, Z = function() return "" end, n = function() return "\n" end,
  t = function() return "\t" end, ["%"] = function() return "%" end,
}
TEXTS.h = TEXTS.b
local COMPOSED = {c = "%a %b %e %H:%M:%S %Y", D = "%m/%d/%y", F = "%Y-%m-%d", r = "%I:%M:%S %p", R = "%H:%M",
  T = "%H:%M:%S", x = "%m/%d/%y", X = "%H:%M:%S"}

local function directive(t, flag, c)
  if COMPOSED[c] then return M.format(t, COMPOSED[c]) end
  local s
  if NUMBERS[c] then
    local n, width, fill = NUMBERS[c](t)
    fill = flag == "-" and "" or flag == "_" and " " or flag == "0" and "0" or fill or "0"
    s = ("%d"):format(n)
    return fill:rep(width - #s) .. s
  end
  if not TEXTS[c] then return nil end
  s = TEXTS[c](t)
  if flag == "^" or (flag == "#" and c ~= "p") then return s:upper() end
  return flag == "#" and s:lower() or s
end

---The moment `t` (of `fields`) in the words of `format`; a directive that nobody knows stays as it is.
function M.format(t, format)
  return (format:gsub("%%([-_0^#]?)([EO]?)(.)", function(flag, _, c) return directive(t, flag, c) end))
end

---strftime_now of a rendering, whose option `now` is in `rt.now`.
function M.now(rt, format)
  if not rt.time then
    rt.time = M.fields(rt.now)
    if not rt.time then base.raise("usage", "now: expected ISO 8601 or seconds, found %s", tostring(rt.now)) end
  end
  base.step(rt, #format // 4 + 1)
  base.bytes(rt, 16 * #format)
  return M.format(rt.time, format)
end

return M
