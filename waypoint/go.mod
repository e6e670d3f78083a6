module github.com/ambit-mesh/ambit/waypoint

go 1.26
