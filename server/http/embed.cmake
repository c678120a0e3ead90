# cmake -DFOLDER=... -DNAMES=a.html,b.js -DOUTPUT=x.cc -P embed.cmake
#
# Writes files of a folder as raw strings of a C++ source: Pages() of server/http/pages.h.
string(REPLACE "," ";" names "${NAMES}")
set(code "#include \"server/http/pages.h\"\n\nnamespace lorica {\nnamespace {\n\n")
string(APPEND code "constexpr Page kPages[] = {\n")
foreach(name ${names})
  file(READ "${FOLDER}/${name}" text)
  string(APPEND code "    {\"${name}\", R\"~~~page(${text})~~~page\"},\n")
endforeach()
string(APPEND code "};\n\n}  // namespace\n\nabsl::Span<const Page> Pages() { return kPages; }\n\n")
string(APPEND code "}  // namespace lorica\n")
file(WRITE "${OUTPUT}" "${code}")
